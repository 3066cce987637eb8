#!lua flags=allow-oom
-- KEYS: the worker's presence, the set of workers. ARGV: presence, ms that it lasts, worker id.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
