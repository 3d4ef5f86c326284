//! Reports: status keys in etcd, endpoint files, readiness.
