"""The load: what is sent and when it is due, and what is counted of the requests that were served."""
