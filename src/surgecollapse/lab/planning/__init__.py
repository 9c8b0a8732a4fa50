"""What a run will take before it is begun: operations, memory, communication, hours and cost."""
