-- Drop a log with its epoch, and tell who follows it.
-- KEYS: meta, entries, ids
-- ARGV: channel
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('PUBLISH', ARGV[1], '')
return 1
