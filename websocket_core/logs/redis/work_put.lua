-- Let an item wait, unless it is known or too many wait.
-- KEYS: stream, ids, owners
-- ARGV: owner, id, most, most of one owner, remembered ms, ids to remember, channel, kind, "" or = and the thread id,
--       the same of the connection id, body
-- Answer: taken, known or full
if redis.replicate_commands then redis.replicate_commands() end
local stream, ids, owners = KEYS[1], KEYS[2], KEYS[3]
local owner = ARGV[1]
local name = #owner .. ':' .. owner .. ARGV[2] -- injective: whoever chooses an id chooses none of somebody else
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waiting = redis.call('XLEN', stream)
local horizon = now - ARGV[5]

local known = redis.call('ZSCORE', ids, name)
if known and (known == 'inf' and waiting > 0 or known ~= 'inf' and tonumber(known) >= horizon) then return 'known' end
local of_owner = waiting > 0 and tonumber(redis.call('HGET', owners, owner) or 0) or 0
if waiting >= tonumber(ARGV[3]) or of_owner >= tonumber(ARGV[4]) then return 'full' end

redis.call('XADD', stream, '*', 'n', owner, 'i', ARGV[2], 'k', ARGV[8], 'h', ARGV[9], 'c', ARGV[10], 'b', ARGV[11])
if waiting == 0 then -- nothing is left that these could be about
  redis.call('ZREMRANGEBYSCORE', ids, '+inf', '+inf')
  redis.call('DEL', owners)
end
redis.call('ZADD', ids, '+inf', name)
redis.call('HINCRBY', owners, owner, 1)
redis.call('ZREMRANGEBYSCORE', ids, '-inf', string.format('(%.0f', horizon))
local above = redis.call('ZCOUNT', ids, '-inf', '(+inf') - ARGV[6]
if above > 0 then redis.call('ZREMRANGEBYRANK', ids, 0, above - 1) end
redis.call('PUBLISH', ARGV[7], '')
return 'taken'
