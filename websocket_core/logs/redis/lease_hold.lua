-- Prolong leases, or begin to hold them. One that was claimed stays lost.
-- KEYS: due, lost
-- ARGV: lease ms, until which ms if that is still to come or "", ms to keep what nobody prolongs, members
-- Answer: until, ms left, then the members that are lost
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local full = now + ARGV[1]
local till = tonumber(ARGV[2]) or 0
if till <= now or till > full then till = full end
local answer = {string.format('%.0f', till), string.format('%.0f', till - now)}
for i = 4, #ARGV do
  if redis.call('ZSCORE', KEYS[2], ARGV[i]) then
    answer[#answer + 1] = ARGV[i]
  else
    redis.call('ZADD', KEYS[1], string.format('%.0f', till), ARGV[i])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return answer
