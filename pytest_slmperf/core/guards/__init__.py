"""What throws a round away or is told beside it: judged by causes, never by the result."""
