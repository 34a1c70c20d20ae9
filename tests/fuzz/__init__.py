"""`make fuzz`: damaged inputs in child processes. Each must be refused in one line or give the result of the undamaged
input."""
