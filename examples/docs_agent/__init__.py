"""The demo: an agent that answers questions about this repository's documentation, watched live in a browser.

python -m examples.docs_agent
"""
