// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IScoringRule} from "../IScoringRule.sol";
import {RootedRule} from "./RootedRule.sol";

/// @title Peel and Shapley shares
/// @notice Groups of updates that stand out are peeled off by a test that needs no guess of the number
/// of attackers; the rest, without norms far beyond the others', is averaged and paid by what each adds
/// along the others.
/// @dev No parameters: 32 zero bytes. `aggregator/peel.py` derives the test; in short: of n honest
/// updates along independent Gaussian directions, whatever their mean and covariance, the leading
/// eigenvector of the centred Gram matrix is uniform on a sphere, and T, the part of it that the best
/// split into two groups explains, exceeds a bound that follows from n and a level alone. Three vectors
/// are tested: that eigenvector for cosines, the logarithms of the norms, and those of the distances
/// from the mean direction. What stands out most is peeled off while it is significant, a minority, and
/// leaves more than half, up to four times. A group beyond the bound at 10^-3 has no weight and no
/// share; one beyond that at 10^-6 is an outlier, too, and loses stake.
///
/// Shares are the Shapley values of v(S) = Σ_{i≠j∈S} w_i w_j G_ij, which are w_i Σ_{j≠i} w_j G_ij:
/// an update is paid for its agreement with others, not for its own length.
///
/// Magnitudes, with n ≤ 128: |G| ≤ 2^63, norms < 2^32, |cosines| ≤ 2^24 (they are cut), so centred
/// entries are ≤ 2^40; vectors have entries ≤ 2^32, so products are ≤ 2^79, which a signed lane of 85
/// bits holds, times 2^32 ≤ 2^111; less
/// their mean, times n, entries are ≤ 2^40, prefix sums ≤ 2^47, their squares times n ≤ 2^101, times 2^32
/// ≤ 2^133. Norms < 2^32 and fold changes < 2^48, so a bound is < 2^160. Weights ≤ 2^16, so a value is
/// ≤ 2^103 and their sum ≤ 2^110; the pot is a uint96. Nothing overflows, which is why the arithmetic is
/// unchecked.
contract PeelShapley is RootedRule {
    uint256 private constant ONE = 1 << 16;
    int256 private constant UNIT = 1 << 24;
    uint256 private constant WHOLE = 1 << 32;
    uint256 private constant FEWEST = 5;
    uint256 private constant MOST = 128;
    /// @dev 64 updates take 4M gas, and 2M more for each group that is peeled off; a transaction may use
    /// 16.7M.
    uint256 private constant MOST_SETTLED = 64;
    /// @dev So many groups are peeled off at most, or attackers could make a round too dear to settle.
    uint256 private constant GROUPS = 4;
    uint256 private constant STEPS = 10;
    uint256 private constant LANE = 85;

    /// @dev For 5, 6, ... 128 updates how far below 1 a T, in 2^-32, may lie to be significant at 10^-3
    /// and at 10^-6, a uint32 each. A test derives them again.
    bytes private constant BOUNDS = hex"005bb28e0000eacf015e9e52000b18dd030d44cd00315fb40530c14d00852e830791194d010dee8d0a05600f01c9b1c8"
        hex"0c738c7d02b12eed0ecc7bd703bb2bc91108318404de861c1323216706132839151c67870752595716f4a82e0896ba9a"
        hex"18ad5e4409dc20431a486f580b1f5ffa1bc7eaf90c5e1ff61d2de4d00d96abcb1e7c5f230ec7d03e1fb53f6d0ff0bdee"
        hex"20da49071110f1f421ed1b7d1228238022ef32fb1336358323e1e9f3143b2b8b24c67b5b1537212b259e0525162a435a"
        hex"26698ad31714cb5c2729f7e617f6fadd27e0223118d118fb288ccc0219a370022930a6131a6e4bbb29cc514d1b31f825"
        hex"2a60606a1beec0842aed59581ca4eeb22b73b6861d54caa02bf3e80a1dfe9a002c6e54a31ea2a00d2ce35aa01f411d65"
        hex"2d5350b81fda4ffb2dbe86ba206e73112e25463820fdbf3d2e87d31d21886a762ee66c2d220ea8222f414b7d2290a931"
        hex"2f98a6e3230e9c2f2fecb04c2388ad5e303d961e23ff06d2308b837b2471d08630d6a08e24e1307a311f12c8254d4aca"
        hex"3164fd1625b641c831a8801c261c361031e9ba5d267f46a43228c86826df91003265c502273d312d32a0c943279841d7"
        hex"32d9ecbb27f0dc603311458c284718ef3346e888289b0e87337ae94828ecd31033ad5a41293c7b6c33de4cda298a1b82"
        hex"340dd17e29d5c64b343bf7af2a1f8de43468ce142a678392349462892aadb7d534bec22b2af23a6c34e7f9652b351a65"
        hex"351013fd2b76662135371d1d2bb62b63355d1f5c2bf47751358224cb2c31568435a636f72c6cd50735c95ef82ca6fe65"
        hex"35eba5722cdfddad360d12a12d177d76362dae5b2d4de7eb364d80192d8326c8366c8efa2db74367368ae1ca2dea46c0"
        hex"36a87f042e1c397036c56cdb2e4d23bd36e1b13a2e7d0d9a36fd51c92eabfeab371853f12ed9fe473732bce02f071380"
        hex"374c918b2f3345213765d6b12f5e99b5377e90de2f8917883796c46f2fb2c4a937ae75922fdba6f237c5a84a3003c403"
        hex"37dc6071302b214937f2a1b93051c40038086faf3077b134381dcdbd309cedc33832bf2a30c17e603847471e30e56795"
        hex"385b68a23108adc3386f26a1312b5526388283eb314d61d238958336316ed7bd38a8271c318fbab838ba722131b00e74"
        hex"38cc66b231cfd68338de072431ef165b38ef55b9320dd1523900549c322c0aa7391105e83249c57a39216ba3326704d5"
        hex"393187c13283cba839415c2832a01ccc3950eaab32bbfb043960350d32d768fd396f3d0432f2694e397e0436330cfe7c"
        hex"398c8c3d33272af7399ad6a43340f11e39a8e4eb335a533b39b6b8833373538a39c452d4338bf43539d1b53b33a43755"
        hex"39dee10733bc1ef639ebd78033d3ad1339f899e233eae3993a0529603401c467";

    /// @dev What stays the same while groups are peeled off; one place on the stack instead of three.
    /// Nobody knows the seed before all have committed, so that nobody can hide from the start.
    struct Round {
        bytes32 seed;
        uint256 n;
        int256[] g;
        int256[] norms;
    }

    /// @inheritdoc IScoringRule
    function checkParams(bytes32 params, uint256 capacity) external pure {
        if (capacity > MOST_SETTLED) revert TooManyUpdates(capacity, MOST_SETTLED);
        if (params != 0) revert BadRuleParams(params);
    }

    /// @inheritdoc RootedRule
    function _score(bytes32 params, uint256 n, bytes calldata gram, uint256 pot)
        internal
        pure
        override
        returns (uint256[] memory scores)
    {
        if (params != 0) revert BadRuleParams(params);
        if (n > MOST) revert TooManyUpdates(n, MOST);
        unchecked {
            int256[] memory g = _unpack(gram, n);
            int256[] memory norms = new int256[](n);
            for (uint256 i = 0; i < n; ++i) {
                _put(norms, i, int256(Math.sqrt(uint256(_at(g, i * n + i)))));
            }
            (uint256 kept, uint256 outliers) = _peel(Round(keccak256(gram), n, g, norms));
            if (kept == 0) kept = (1 << n) - 1;
            uint256[] memory weights = _weights(norms, kept, n);
            scores = _shares(g, weights, kept, n, pot);
            for (uint256 i = 0; i < n; ++i) {
                scores[i] |= weights[i] << 192 | ((outliers >> i) & 1) << 240;
            }
        }
    }

    /// @dev The whole symmetric matrix, row by row: reading it is then one multiplication away.
    function _unpack(bytes calldata gram, uint256 n) private pure returns (int256[] memory g) {
        unchecked {
            g = new int256[](n * n);
            uint256 at;
            assembly ("memory-safe") {
                at := gram.offset
            }
            for (uint256 i = 0; i < n; ++i) {
                assembly ("memory-safe") {
                    // From the diagonal to the right, and from there down.
                    let right := add(add(g, 32), shl(5, mul(add(n, 1), i)))
                    let down := right
                    let last := add(right, shl(5, sub(n, i)))
                    for {} lt(right, last) { right := add(right, 32) } {
                        let value := sar(192, calldataload(at))
                        mstore(right, value)
                        mstore(down, value)
                        down := add(down, shl(5, n))
                        at := add(at, 8)
                    }
                }
                if (_at(g, i * n + i) < 0) revert NotAGramMatrix(i);
            }
        }
    }

    /// @dev Bitmaps of who stays (nobody, if all updates are zero) and who is an outlier.
    function _peel(Round memory round) private pure returns (uint256 kept, uint256 outliers) {
        unchecked {
            uint256 whole = 0;
            for (uint256 i = 0; i < round.n; ++i) {
                if (_at(round.norms, i) == 0) continue;
                kept |= 1 << i;
                ++whole;
            }
            uint256 left = whole;
            for (uint256 peeled = 0; peeled < GROUPS && left >= FEWEST; ++peeled) {
                (uint256 most, uint256 group, uint256 size) = _standOut(round, kept, left);
                (uint256 aside, uint256 slashed) = _bounds(left);
                if (most <= WHOLE - aside || 2 * (left - size) <= whole) break;
                kept &= ~group;
                if (most > WHOLE - slashed) outliers |= group;
                left -= size;
            }
        }
    }

    function _bounds(uint256 left) private pure returns (uint256 aside, uint256 slashed) {
        bytes memory table = BOUNDS;
        assembly ("memory-safe") {
            let word := mload(add(add(table, 32), shl(3, sub(left, FEWEST))))
            aside := shr(224, word)
            slashed := and(shr(192, word), 0xffffffff)
        }
    }

    /// @dev The largest T, in 2^-32, of the three vectors over the `k` that are left, and the group that
    /// it splits off.
    function _standOut(Round memory round, uint256 kept, uint256 k)
        private
        pure
        returns (uint256 most, uint256 group, uint256 size)
    {
        unchecked {
            int256[] memory index = new int256[](k);
            int256[] memory values = new int256[](k);
            uint256 count = 0;
            for (uint256 i = 0; count < k; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                _put(index, count, int256(i));
                _put(values, count++, _log2(uint256(_at(round.g, i * round.n + i))));
            }
            (most, group, size) = _splitOff(values, index, true);
            int256[] memory packed = _cosines(round, index);
            _centre(packed, values);
            (uint256 t, uint256 other, uint256 others) =
                _splitOff(_leading(packed, round.seed, k), index, false);
            if (t > most) (most, group, size) = (t, other, others);
            (t, other, others) = _splitOff(values, index, true);
            if (t > most) (most, group, size) = (t, other, others);
        }
    }

    /// @dev Words of a packed row: k, rounded up to a multiple of 4, which `_multiply` needs.
    function _stride(uint256 k) private pure returns (uint256) {
        return (k + 3) & ~uint256(3);
    }

    /// @dev The cosines of the `k` that are left. Three entries of a column share a word, `LANE` bits
    /// each and signed, so that one product serves three rows: word r * stride + j holds those of rows 3r,
    /// 3r + 1 and 3r + 2 in column j. A sum that is negative borrows from the next lane; `_multiply`
    /// gives it back.
    function _cosines(Round memory round, int256[] memory index)
        private
        pure
        returns (int256[] memory packed)
    {
        unchecked {
            uint256 k = index.length;
            uint256 stride = _stride(k);
            packed = new int256[]((k + 2) / 3 * stride);
            (int256[] memory g, int256[] memory norms) = (round.g, round.norms);
            for (uint256 i = 0; i < k; ++i) {
                uint256 row = uint256(_at(index, i));
                int256 norm = _at(norms, row);
                row *= round.n;
                assembly ("memory-safe") {
                    let ours := add(add(packed, 32), shl(5, mul(div(i, 3), stride)))
                    let shift := mul(85, mod(i, 3))
                    // An update's cosine with itself is cut to 1.
                    let at := add(ours, shl(5, i))
                    mstore(at, add(mload(at), shl(shift, UNIT)))
                    for { let j := 0 } lt(j, i) { j := add(j, 1) } {
                        let other := shl(5, mload(add(add(index, 32), shl(5, j))))
                        let cosine :=
                            sdiv(
                                mul(mload(add(add(g, 32), add(shl(5, row), other))), UNIT),
                                mul(norm, mload(add(add(norms, 32), other)))
                            )
                        if sgt(cosine, UNIT) { cosine := UNIT }
                        if slt(cosine, sub(0, UNIT)) { cosine := sub(0, UNIT) }
                        at := add(ours, shl(5, j))
                        mstore(at, add(mload(at), shl(shift, cosine)))
                        at := add(add(packed, 32), shl(5, add(mul(div(j, 3), stride), i)))
                        mstore(at, add(mload(at), shl(mul(85, mod(j, 3)), cosine)))
                    }
                }
            }
        }
    }

    /// @dev Centres the matrix (H A H, times k²) in place; writes the logarithms of its diagonal, the
    /// squared distances from the mean direction.
    function _centre(int256[] memory packed, int256[] memory logs) private pure {
        unchecked {
            uint256 k = logs.length;
            int256[] memory sums = new int256[](k + 2);
            int256[] memory ones = new int256[](_stride(k));
            for (uint256 j = 0; j < k; ++j) {
                _put(ones, j, int256(k));
            }
            _multiply(packed, ones, sums);
            int256 total = 0;
            for (uint256 i = 0; i < k; ++i) {
                total += _at(sums, i);
            }
            total /= int256(k);
            uint256 at = 0;
            for (uint256 i = 0; i < k; i += 3) {
                // Lanes beyond the last row stay zero.
                int256 lanes = 1;
                if (i + 1 < k) lanes |= int256(1) << LANE;
                if (i + 2 < k) lanes |= int256(1) << 2 * LANE;
                int256 offset = total * lanes - _at(sums, i) - (_at(sums, i + 1) << LANE)
                    - (_at(sums, i + 2) << 2 * LANE);
                assembly ("memory-safe") {
                    let entry := add(add(packed, 32), shl(5, at))
                    let sum := add(sums, 32)
                    for { let last := add(sum, shl(5, k)) } lt(sum, last) { sum := add(sum, 32) } {
                        let away := add(mul(mul(k, k), mload(entry)), offset)
                        mstore(entry, sub(away, mul(mload(sum), lanes)))
                        entry := add(entry, 32)
                    }
                }
                at += _stride(k);
            }
            for (uint256 i = 0; i < k; ++i) {
                int256 distance = int256(k * k) * UNIT + total - 2 * _at(sums, i);
                if (distance < 1) distance = 1;
                _put(logs, i, _log2(uint256(distance)));
            }
        }
    }

    /// @dev Approaches the leading eigenvector, entries up to 2^32, from a start that the seed decides.
    /// From an independent start in no particular direction, what is reached without attackers is in no
    /// particular direction either, converged or not. The matrix is nearly a multiple of the identity
    /// where honest updates are noise, and then a start along one row would stay there.
    function _leading(int256[] memory packed, bytes32 seed, uint256 k)
        private
        pure
        returns (int256[] memory vector)
    {
        unchecked {
            vector = new int256[](_stride(k));
            int256[] memory product = new int256[](k + 2);
            uint256 bits = 0;
            for (uint256 j = 0; j < k; ++j) {
                if (j % 8 == 0) bits = uint256(keccak256(abi.encode(seed, j / 8)));
                // The sum of four uniform bytes, less its mean: nearly normal.
                uint256 sum = (bits >> 248) + ((bits >> 240) & 0xff) + ((bits >> 232) & 0xff)
                    + ((bits >> 224) & 0xff);
                _put(vector, j, int256(sum) - 510);
                bits <<= 32;
            }
            for (uint256 step = 0; step < STEPS; ++step) {
                uint256 largest = _multiply(packed, vector, product);
                assembly ("memory-safe") {
                    // Of a product of zeros nothing is left, whatever it is divided by.
                    let from := add(product, 32)
                    let to := add(vector, 32)
                    for { let last := add(to, shl(5, k)) } lt(to, last) { to := add(to, 32) } {
                        mstore(to, sdiv(mul(mload(from), WHOLE), largest))
                        from := add(from, 32)
                    }
                }
            }
            assembly ("memory-safe") {
                mstore(vector, k)
            }
        }
    }

    /// @dev product = A vector, and its largest absolute entry, for a matrix with three rows in a word;
    /// `product` has room for the rows that only fill the last word. Most of the rule's gas goes here.
    function _multiply(int256[] memory packed, int256[] memory vector, int256[] memory product)
        private
        pure
        returns (uint256 largest)
    {
        assembly ("memory-safe") {
            let start := add(vector, 32)
            let end := add(start, shl(5, mload(vector)))
            let target := add(product, 32)
            let entry := add(packed, 32)
            for { let last := add(entry, shl(5, mload(packed))) } lt(entry, last) {} {
                let sum := 0
                let away := sub(entry, start)
                for { let at := start } lt(at, end) { at := add(at, 128) } {
                    let other := add(at, away)
                    sum := add(sum, mul(mload(at), mload(other)))
                    sum := add(sum, mul(mload(add(at, 32)), mload(add(other, 32))))
                    sum := add(sum, mul(mload(add(at, 64)), mload(add(other, 64))))
                    sum := add(sum, mul(mload(add(at, 96)), mload(add(other, 96))))
                }
                entry := add(end, away)
                for { let lane := 0 } lt(lane, 3) { lane := add(lane, 1) } {
                    // 85 bits each, the lowest first; shifting up and down again gives the sign.
                    let value := sar(171, shl(171, sum))
                    mstore(target, value)
                    target := add(target, 32)
                    sum := sar(85, sub(sum, value))
                    if slt(value, 0) { value := sub(0, value) }
                    if gt(value, largest) { largest := value }
                }
            }
        }
    }

    /// @dev T of the best split into a low and a high group, and the smaller of them (of equal ones
    /// the lower) as a bitmap of updates; with `longer` only a group of larger values counts.
    function _splitOff(int256[] memory values, int256[] memory index, bool longer)
        private
        pure
        returns (uint256 t, uint256 group, uint256 size)
    {
        unchecked {
            uint256 k = values.length;
            int256 total = 0;
            for (uint256 i = 0; i < k; ++i) {
                total += _at(values, i);
            }
            // A key is a value less the mean, times k, and its position: keys differ and keep the order.
            int256[] memory sorted = new int256[](k);
            uint256 spread = 0;
            for (uint256 i = 0; i < k; ++i) {
                int256 value = int256(k) * _at(values, i) - total;
                spread += uint256(value * value);
                _insert(sorted, i, value << 8 | int256(i));
            }
            if (spread == 0) return (0, 0, 0);
            int256 below = 0;
            for (uint256 low = 1; low < k; ++low) {
                below += _at(sorted, low - 1) >> 8;
                uint256 explained = uint256(below * below) * k / (low * (k - low));
                if (explained > t || low == 1) (t, size) = (explained, low);
            }
            t = t * WHOLE / spread;
            bool upper = size > k - size;
            if (longer && !upper) return (0, 0, 0);
            uint256 from = upper ? size : 0;
            if (upper) size = k - size;
            for (uint256 i = from; i < from + size; ++i) {
                group |= 1 << uint256(_at(index, uint256(_at(sorted, i)) & 0xff));
            }
        }
    }

    /// @dev Shortens what is kept to the lower median norm times the fourth power of the lower median
    /// fold change from it, and divides 2^16 by the factors; what is left goes to the first ones.
    function _weights(int256[] memory norms, uint256 kept, uint256 n)
        private
        pure
        returns (uint256[] memory weights)
    {
        unchecked {
            uint256 bound = _normBound(norms, kept, n);
            weights = new uint256[](n);
            uint256 sum = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                uint256 norm = uint256(_at(norms, i));
                weights[i] = norm <= bound ? ONE : bound * ONE / norm;
                sum += weights[i];
            }
            uint256 left = ONE;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                weights[i] = ONE * weights[i] / sum;
                left -= weights[i];
            }
            for (uint256 i = 0; left > 0; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                ++weights[i];
                --left;
            }
        }
    }

    function _normBound(int256[] memory norms, uint256 kept, uint256 n)
        private
        pure
        returns (uint256)
    {
        unchecked {
            int256[] memory sorted = new int256[](n);
            uint256 count = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 != 0) _insert(sorted, count++, _at(norms, i));
            }
            uint256 middle = uint256(_at(sorted, (count - 1) / 2));
            if (middle == 0) return type(uint32).max;
            count = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                uint256 norm = uint256(_at(norms, i));
                uint256 fold = norm > middle ? norm * ONE / middle : middle * ONE / norm;
                _insert(sorted, count++, int256(fold));
            }
            uint256 change = uint256(_at(sorted, (count - 1) / 2));
            return middle * change * change * change * change >> 64;
        }
    }

    function _shares(
        int256[] memory g,
        uint256[] memory weights,
        uint256 kept,
        uint256 n,
        uint256 pot
    ) private pure returns (uint256[] memory shares) {
        unchecked {
            shares = new uint256[](n);
            uint256 sum = 0;
            uint256 accepted = 0;
            uint256 first = n;
            uint256 largest = 0;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                ++accepted;
                // Who is not kept has no weight, so that it needs no check here.
                int256 along = -int256(weights[i]) * _at(g, i * n + i);
                assembly ("memory-safe") {
                    let entry := add(add(g, 32), shl(5, mul(n, i)))
                    let weight := add(weights, 32)
                    for { let last := add(weight, shl(5, n)) } lt(weight, last) {
                        weight := add(weight, 32)
                    } {
                        along := add(along, mul(mload(weight), mload(entry)))
                        entry := add(entry, 32)
                    }
                }
                uint256 value = along > 0 ? weights[i] * uint256(along) : 0;
                shares[i] = value;
                sum += value;
                if (first == n || value > largest) (first, largest) = (i, value);
            }
            uint256 left = pot;
            for (uint256 i = 0; i < n; ++i) {
                if ((kept >> i) & 1 == 0) continue;
                shares[i] = sum == 0 ? pot / accepted : pot * shares[i] / sum;
                left -= shares[i];
            }
            shares[first] += left;
        }
    }

    /// @dev The logarithm of a number from 1 to 2^128, in 2^-12, rounded down.
    function _log2(uint256 value) private pure returns (int256 found) {
        assembly ("memory-safe") {
            let whole := shl(7, gt(value, 0xffffffffffffffffffffffffffffffff))
            whole := or(whole, shl(6, gt(shr(whole, value), 0xffffffffffffffff)))
            whole := or(whole, shl(5, gt(shr(whole, value), 0xffffffff)))
            whole := or(whole, shl(4, gt(shr(whole, value), 0xffff)))
            whole := or(whole, shl(3, gt(shr(whole, value), 0xff)))
            whole := or(whole, shl(2, gt(shr(whole, value), 0xf)))
            whole := or(whole, shl(1, gt(shr(whole, value), 3)))
            whole := or(whole, gt(shr(whole, value), 1))
            let mantissa := shl(sub(127, whole), value)
            for { let bit := 0 } lt(bit, 12) { bit := add(bit, 1) } {
                mantissa := shr(127, mul(mantissa, mantissa))
                let carry := shr(128, mantissa)
                whole := or(shl(1, whole), carry)
                mantissa := shr(carry, mantissa)
            }
            found := whole
        }
    }

    /// @dev Insertion sort's step: puts `value` among the first `count` entries, which are sorted.
    function _insert(int256[] memory sorted, uint256 count, int256 value) private pure {
        assembly ("memory-safe") {
            let start := add(sorted, 32)
            let slot := add(start, shl(5, count))
            for {} gt(slot, start) {} {
                let before := mload(sub(slot, 32))
                if iszero(sgt(before, value)) { break }
                mstore(slot, before)
                slot := sub(slot, 32)
            }
            mstore(slot, value)
        }
    }

    // Indices come from loops bounded by the lengths, so that bounds need no second check.

    function _at(int256[] memory values, uint256 i) private pure returns (int256 value) {
        assembly ("memory-safe") {
            value := mload(add(add(values, 32), shl(5, i)))
        }
    }

    function _add(int256[] memory values, uint256 i, int256 value) private pure {
        assembly ("memory-safe") {
            let at := add(add(values, 32), shl(5, i))
            mstore(at, add(mload(at), value))
        }
    }

    function _put(int256[] memory values, uint256 i, int256 value) private pure {
        assembly ("memory-safe") {
            mstore(add(add(values, 32), shl(5, i)), value)
        }
    }
}
