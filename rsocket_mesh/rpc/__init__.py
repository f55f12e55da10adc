"""What applications see: services, calls by name, and the lasting connection between them."""
