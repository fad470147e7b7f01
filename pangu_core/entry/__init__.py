"""The pods' commands, one module per verb."""
