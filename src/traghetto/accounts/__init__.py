"""Who may call: accounts, API keys, and the operations with which operators change them."""
