"""How network calls are executed: one contract, same answers."""
