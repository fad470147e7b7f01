"""Files that lie elsewhere: s3://, https:// and what else fsspec knows."""
