"""The private QuestDB server: its runtime, its process and its address."""
