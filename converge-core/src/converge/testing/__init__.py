"""Contract tests for authors of plugins: inherit one class, give one fixture, get the suite our own plugins run.

Each module needs pytest (`pip install converge-core[testing]`) and is imported on its own:
`from converge.testing.store import StoreContract`.
"""
