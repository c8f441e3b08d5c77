"""Domain types of the service: requests, records, states and errors. No HTTP, no database."""
