//! A client of registries that speak the OCI distribution protocol: blobs, manifests, tags and referrers. It knows nothing of
//! what the blobs mean. Invariant: what a registry sends counts only after its digest was compared.
