"""The private QuestDB server: its runtime, its process and where it listens."""
