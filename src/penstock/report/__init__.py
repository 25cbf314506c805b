"""What happened: the account, statistics, the verdict."""
