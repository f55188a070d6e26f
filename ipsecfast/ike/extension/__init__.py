"""One file an extension of IKEv2: what it sends, what it makes of what comes, what it keeps."""
