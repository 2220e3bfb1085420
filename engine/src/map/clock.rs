//! A bounded cache with CLOCK (second chance) replacement, in shards, each behind its own lock.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};

const SHARDS: usize = 16;

struct Slot<K, V> {
    key: K,
    value: V,
    bytes: usize,
    used: bool,
}

struct Shard<K, V> {
    places: FxHashMap<K, usize>,
    slots: Vec<Slot<K, V>>,
    hand: usize,
    bytes: usize,
}

/// Values are cheap to clone (an `Arc`). `bytes_max` bounds the sum of the sizes handed in.
pub(crate) struct ClockCache<K, V> {
    shards: Vec<Mutex<Shard<K, V>>>,
    shard_bytes_max: usize,
    bytes: AtomicUsize,
}

impl<K: Hash + Eq + Copy, V: Clone> ClockCache<K, V> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let shard = || Shard {
            places: FxHashMap::default(),
            slots: Vec::new(),
            hand: 0,
            bytes: 0,
        };
        ClockCache {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            shard_bytes_max: bytes_max / SHARDS,
            bytes: AtomicUsize::new(0),
        }
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        let hash = FxBuildHasher.hash_one(key);
        &self.shards[(hash >> 40) as usize % SHARDS]
    }

    /// Bytes held by all shards.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut shard = self.shard(key).lock();
        let place = *shard.places.get(key)?;
        let slot = &mut shard.slots[place];
        slot.used = true;
        Some(slot.value.clone())
    }

    /// Puts or replaces, then evicts until the shard fits; what was put last always stays.
    pub(crate) fn put(&self, key: K, value: V, bytes: usize) {
        let mut shard = self.shard(&key).lock();
        let before = shard.bytes;
        shard.put(key, value, bytes, self.shard_bytes_max);
        self.account(before, shard.bytes);
    }

    pub(crate) fn take(&self, key: &K) -> Option<V> {
        let mut shard = self.shard(key).lock();
        let place = *shard.places.get(key)?;
        let before = shard.bytes;
        let slot = shard.remove(place);
        self.account(before, shard.bytes);
        Some(slot.value)
    }

    /// Drops every key that `gone` says yes to. Takes time in proportion to the cache.
    pub(crate) fn drop_where(&self, gone: impl Fn(&K) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let before = shard.bytes;
            let mut place = 0;
            while place < shard.slots.len() {
                if gone(&shard.slots[place].key) {
                    shard.remove(place);
                } else {
                    place += 1;
                }
            }
            self.account(before, shard.bytes);
        }
    }

    fn account(&self, before: usize, after: usize) {
        if after >= before {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

impl<K: Hash + Eq + Copy, V> Shard<K, V> {
    fn put(&mut self, key: K, value: V, bytes: usize, bytes_max: usize) {
        if let Some(&place) = self.places.get(&key) {
            self.remove(place);
        }
        while !self.slots.is_empty() && self.bytes + bytes > bytes_max {
            self.evict_one();
        }
        self.places.insert(key, self.slots.len());
        self.slots.push(Slot {
            key,
            value,
            bytes,
            used: false,
        });
        self.bytes += bytes;
    }

    fn evict_one(&mut self) {
        loop {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let slot = &mut self.slots[self.hand];
            if slot.used {
                slot.used = false;
                self.hand += 1;
            } else {
                self.remove(self.hand);
                self.hand += 1;
                return;
            }
        }
    }

    fn remove(&mut self, place: usize) -> Slot<K, V> {
        let slot = self.slots.swap_remove(place);
        self.bytes -= slot.bytes;
        self.places.remove(&slot.key);
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.key, place);
        }
        slot
    }
}
