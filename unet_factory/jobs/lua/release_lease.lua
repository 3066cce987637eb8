-- KEYS: lease. ARGV: owner. Ends it, if it is still the owner's.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
