-- Note what the user has decided. The first decision stands.
-- KEYS: runs
-- ARGV: field of the approval, decision
-- Answer: false if nobody waits for it; else the decision that stands, and the channel of who waits
local id, stands = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^([^\n]*)\n(.*)$')
if not id then return false end
if stands == '' then
  stands = ARGV[2]
  redis.call('HSET', KEYS[1], ARGV[1], id .. '\n' .. stands)
end
return {stands, redis.call('HGET', KEYS[1], id .. '.h') or ''}
