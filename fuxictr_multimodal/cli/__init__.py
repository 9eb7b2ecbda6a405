"""Arguments of the doors; nothing heavy is imported before they are parsed."""
