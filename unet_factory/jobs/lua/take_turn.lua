#!lua flags=allow-oom
-- KEYS: lock. ARGV: ms. Returns 1 for the first who comes in so long; works in a server whose memory is full.
return redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) and 1 or 0
