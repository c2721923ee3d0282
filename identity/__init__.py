"""One identity for each agent, in every form that tools read: keys, SOPS files, documents, prompts."""
