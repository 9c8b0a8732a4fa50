"""The only code that writes weights, optimizer state or inputs."""
