//! The store that a host was told to use, whichever it is.

use std::time::Duration;

use super::{Seen, Store, StoreError, Stored};
use crate::backend::directory::Directory;
use crate::backend::etcd2::Etcd2;
use crate::backend::etcd3::Etcd3;
use crate::layout::{Layout, Reports, v1, v3};

/// etcd by one of its APIs, or a directory of this host.
#[derive(Clone, Debug)]
pub enum AnyStore {
    /// etcd's v3 API.
    Etcd3(Etcd3),
    /// etcd's v2 API.
    Etcd2(Etcd2),
    /// Files of this host.
    Directory(Directory),
}

impl AnyStore {
    /// How what is in it is written down.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Etcd3(_) | Self::Directory(_) => v3::LAYOUT,
            Self::Etcd2(_) => v1::LAYOUT,
        }
    }

    /// Where reports are written.
    pub fn reports(&self) -> Reports {
        match self {
            Self::Etcd3(_) | Self::Directory(_) => Reports::V3,
            Self::Etcd2(_) => Reports::V1,
        }
    }
}

macro_rules! either {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            AnyStore::Etcd3($inner) => $call.await,
            AnyStore::Etcd2($inner) => $call.await,
            AnyStore::Directory($inner) => $call.await,
        }
    };
}

impl Store for AnyStore {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        either!(self, store => Store::get(store, key))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
        either!(self, store => Store::list(store, prefix))
    }

    async fn create(&self, key: &str, value: &[u8]) -> Result<bool, StoreError> {
        either!(self, store => Store::create(store, key, value))
    }

    async fn create_beside(
        &self,
        key: &str,
        value: &[u8],
        seen: &Seen,
    ) -> Result<bool, StoreError> {
        either!(self, store => Store::create_beside(store, key, value, seen))
    }

    async fn replace(&self, key: &str, value: &[u8], revision: i64) -> Result<bool, StoreError> {
        either!(self, store => Store::replace(store, key, value, revision))
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), StoreError> {
        either!(self, store => Store::put(store, key, value, ttl))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        either!(self, store => Store::delete(store, key))
    }

    async fn delete_if(&self, key: &str, revision: i64) -> Result<bool, StoreError> {
        either!(self, store => Store::delete_if(store, key, revision))
    }
}
