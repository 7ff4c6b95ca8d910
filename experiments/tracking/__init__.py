"""Records that are never lost: spool, replica in MongoDB, servers, provenance, comparisons."""
