"""The HTTP service that writes text: OpenAI's completions, probes, metrics, an orderly end."""
