"""Result files of other tools: read into a report of ours by our definitions, and written from one."""
