"""The command line: one small file per verb. A verb parses, calls and prints; the work is done elsewhere."""
