"""HTTP API, dashboard, domain types and database. Knows no torch, no sparsevit, no worker."""
