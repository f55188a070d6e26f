"""What is on the wire: messages, payloads, fragments; proposals and selectors, and where two ends differ in them.

Knows no IKE SA."""
