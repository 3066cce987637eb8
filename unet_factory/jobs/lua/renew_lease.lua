-- KEYS: lease. ARGV: owner, lease in ms. Returns 1 while the owner still holds it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
