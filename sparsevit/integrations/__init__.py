"""Other libraries' models with our backbone inside; each module imports its library."""
