"""Publishing: sealed artifacts of one model as a repository of the hub, and the commit that puts it there."""
