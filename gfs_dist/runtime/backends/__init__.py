"""How workers are started and called: processes of this machine, or Ray actors."""
