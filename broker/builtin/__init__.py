"""The services that the broker itself answers: `mesh.*`."""
