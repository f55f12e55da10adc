"""Who takes a call: address -> table -> selection. Sans-IO; imports no other room of the broker."""
