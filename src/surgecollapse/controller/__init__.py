"""The control loop: observe, decide, act, record, once per optimizer step."""
