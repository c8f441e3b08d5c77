"""The database: tables, sessions, and every SQL statement, one repository class per noun."""
