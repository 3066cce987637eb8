#!lua flags=allow-oom
-- ARGV: id, seconds. A job that is due to be purged is due again after so long.
--@include keys
--@include now
redis.call('ZADD', EXPIRY, 'XX', now() + ARGV[2], ARGV[1])
