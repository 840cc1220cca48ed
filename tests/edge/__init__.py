"""An ngrok edge for tests: a real agent connects to it, requests go through it, and it can be told to misbehave."""
