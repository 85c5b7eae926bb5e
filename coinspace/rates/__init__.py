"""`fx-collector`: quotations of USD/KRW, from banks and markets, as messages on the bus."""
