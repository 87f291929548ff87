-- Note that a connection of a user comes, and who has to make room for it. The longest unused connection id goes first
-- when there are too many.
-- KEYS: connections, seats
-- ARGV: connection id, age ms, most connection ids, seat, process, most seats, ms to keep seats
-- Answer: the seats with the same connection id, which count no more, as {seat, connection id, process} each; and the
--         processes that have others, if there are more seats than there may be
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- each is younger than all before it, also within a microsecond and when the clock is set back
local youngest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local at = youngest and math.max(now, tonumber(youngest) + 1) or now
redis.call('ZADD', KEYS[1], string.format('%.0f', at), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - ARGV[2] * 1000))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, string.format('%d', -ARGV[3] - 1))
redis.call('PEXPIRE', KEYS[1], ARGV[2])

local seats = redis.call('HGETALL', KEYS[2])
local same, processes, named, count, last = {}, {}, {}, 1, 0
for i = 1, #seats, 2 do
  local number, process, connection = string.match(seats[i + 1], '^(%d+)\n([^\n]*)\n(.*)$')
  if not number or seats[i] == ARGV[4] then
    redis.call('HDEL', KEYS[2], seats[i])
  elseif connection == ARGV[1] then
    redis.call('HDEL', KEYS[2], seats[i])
    same[#same + 1] = {seats[i], connection, process}
  else
    count = count + 1
    last = math.max(last, tonumber(number))
    if not named[process] then
      named[process] = true
      processes[#processes + 1] = process
    end
  end
end
redis.call('HSET', KEYS[2], ARGV[4], string.format('%.0f', last + 1) .. '\n' .. ARGV[5] .. '\n' .. ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return {same, count > tonumber(ARGV[6]) and processes or {}}
