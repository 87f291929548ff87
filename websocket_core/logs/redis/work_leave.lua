-- Forget a worker that holds nothing, and those of others that have not been heard of for long.
-- KEYS: stream
-- ARGV: group, worker, ms
if redis.replicate_commands then redis.replicate_commands() end
local shown = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if shown.err then return 0 end
local gone = 0
for _, pairs_ in ipairs(shown) do
  local consumer = {}
  for i = 1, #pairs_, 2 do consumer[pairs_[i]] = pairs_[i + 1] end
  if consumer.pending == 0 and (consumer.name == ARGV[2] or consumer.idle > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    gone = gone + 1
  end
end
return gone
