-- The head of a log; makes the log, and with it an epoch, if there is none.
-- KEYS: meta, entries, ids
-- ARGV: epoch if there is none, head ms
-- Answer: epoch, offset and mark with spaces between
local known = string.match(redis.call('HGET', KEYS[1], 's') or '', '^(%S+ %d+ %S*) ')
if not known then
  known = ARGV[1] .. ' 0 '
  redis.call('HSET', KEYS[1], 's', known .. ' 0 1 0 0') -- first: a server that is full refuses it
  redis.call('HDEL', KEYS[1], 'c')
  redis.call('DEL', KEYS[2], KEYS[3])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return known
