"""How agents agree on a round: protocol, store, client, torchrun handler."""
