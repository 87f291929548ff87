-- The head of a log; makes the log, and with it an epoch, if there is none.
-- KEYS: meta, entries, ids
-- ARGV: epoch if there is none, head ms
-- Answer: epoch, offset, mark
local known = redis.call('HMGET', KEYS[1], 'e', 'o', 'm')
if not known[1] then
  redis.call('HSET', KEYS[1], 'e', ARGV[1], 'o', 0, 'm', '') -- first: a server that is full refuses it
  redis.call('DEL', KEYS[2], KEYS[3])
  known = {ARGV[1], '0', ''}
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {known[1], tonumber(known[2]), known[3]}
