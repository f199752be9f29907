// The same platform, another language.
const primes = [];
for (let n = 2; primes.length < 10; n++) if (primes.every((p) => n % p)) primes.push(n);
console.log(`the first ${primes.length} primes: ${primes.join(' ')}`);
enclave.result({ primes });
