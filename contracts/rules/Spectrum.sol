// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {at, put} from "./Words.sol";

/// @title The spectrum of a round's directions
/// @notice Cosines between updates, their centred matrix, and what stands out in it.
/// @dev Three entries of a column share a word, 85 bits each and signed, so that one product serves three
/// rows: word r * stride + j of a packed matrix holds those of rows 3r, 3r + 1 and 3r + 2 in column j. A
/// sum that is negative borrows from the next lane; `_multiply` gives it back.
///
/// Magnitudes, with k ≤ 128: |cosines| ≤ 2^24 (they are cut), so centred entries are ≤ 2^40; vectors have
/// entries ≤ 2^32, so products are ≤ 2^79, which a lane holds, and times 2^32 ≤ 2^111. To be factorised,
/// with k ≤ 32, entries are ≤ 2^37, and stay ≤ 2^43 as long as no entry of D falls below 1; factors are
/// then ≤ 2^75, and a product ≤ 2^118. A Gram matrix has no eigenvalue below 0, so that D stays above
/// 2^12, solutions are ≤ 2^40 · 2^38 / 2^12, and a product with a factor ≤ 2^141.
library Spectrum {
    int256 internal constant UNIT = 1 << 24;
    uint256 private constant WHOLE = 1 << 32;
    uint256 private constant STEPS = 10;
    uint256 private constant SOLVES = 5;
    uint256 private constant LANE = 85;

    /// @notice The cosines between the updates of `index`, packed, of all inner products and of norms in
    /// 2^-16 steps.
    function cosines(int256[] memory g, int256[] memory norms, int256[] memory index)
        internal
        pure
        returns (int256[] memory packed)
    {
        unchecked {
            uint256 k = index.length;
            uint256 stride = _stride(k);
            packed = new int256[]((k + 2) / 3 * stride);
            for (uint256 i = 0; i < k; ++i) {
                uint256 row = uint256(at(index, i));
                int256 norm = at(norms, row);
                row *= norms.length;
                assembly ("memory-safe") {
                    let ours := add(add(packed, 32), shl(5, mul(div(i, 3), stride)))
                    let shift := mul(85, mod(i, 3))
                    // An update's cosine with itself is cut to 1.
                    let slot := add(ours, shl(5, i))
                    mstore(slot, add(mload(slot), shl(shift, UNIT)))
                    for { let j := 0 } lt(j, i) { j := add(j, 1) } {
                        let other := shl(5, mload(add(add(index, 32), shl(5, j))))
                        let cosine :=
                            sdiv(
                                mul(mload(add(add(g, 32), add(shl(5, row), other))), shl(32, UNIT)),
                                mul(norm, mload(add(add(norms, 32), other)))
                            )
                        if sgt(cosine, UNIT) { cosine := UNIT }
                        if slt(cosine, sub(0, UNIT)) { cosine := sub(0, UNIT) }
                        slot := add(ours, shl(5, j))
                        mstore(slot, add(mload(slot), shl(shift, cosine)))
                        slot := add(add(packed, 32), shl(5, add(mul(div(j, 3), stride), i)))
                        mstore(slot, add(mload(slot), shl(mul(85, mod(j, 3)), cosine)))
                    }
                }
            }
        }
    }

    /// @notice The largest cosine between two updates.
    function nearest(int256[] memory packed, uint256 k) internal pure returns (int256 most) {
        unchecked {
            most = -UNIT;
            uint256 stride = _stride(k);
            for (uint256 i = 0; i < k; ++i) {
                assembly ("memory-safe") {
                    // A negative lane below has borrowed one, which half a unit gives back.
                    let down := mul(85, mod(i, 3))
                    let half := shr(1, shl(down, 1))
                    let entry := add(add(packed, 32), shl(5, mul(div(i, 3), stride)))
                    for { let last := add(entry, shl(5, i)) } lt(entry, last) {} {
                        let cosine := sar(171, shl(sub(171, down), add(mload(entry), half)))
                        if sgt(cosine, most) { most := cosine }
                        entry := add(entry, 32)
                    }
                }
            }
        }
    }

    /// @notice Centres the matrix (H A H, times k²) in place; returns its diagonal, the squared distances
    /// from the mean direction, and never less than 1.
    function centre(int256[] memory packed, uint256 k)
        internal
        pure
        returns (int256[] memory distances)
    {
        unchecked {
            distances = new int256[](k);
            int256[] memory sums = new int256[](k + 2);
            int256[] memory ones = new int256[](_stride(k));
            for (uint256 j = 0; j < k; ++j) {
                put(ones, j, int256(k));
            }
            _multiply(packed, ones, sums);
            int256 total = 0;
            for (uint256 i = 0; i < k; ++i) {
                total += at(sums, i);
            }
            total /= int256(k);
            uint256 row = 0;
            for (uint256 i = 0; i < k; i += 3) {
                // Lanes beyond the last row stay zero.
                int256 lanes = 1;
                if (i + 1 < k) lanes |= int256(1) << LANE;
                if (i + 2 < k) lanes |= int256(1) << 2 * LANE;
                int256 offset = total * lanes - at(sums, i) - (at(sums, i + 1) << LANE)
                    - (at(sums, i + 2) << 2 * LANE);
                assembly ("memory-safe") {
                    let entry := add(add(packed, 32), shl(5, row))
                    let sum := add(sums, 32)
                    for { let last := add(sum, shl(5, k)) } lt(sum, last) { sum := add(sum, 32) } {
                        let away := add(mul(mul(k, k), mload(entry)), offset)
                        mstore(entry, sub(away, mul(mload(sum), lanes)))
                        entry := add(entry, 32)
                    }
                }
                row += _stride(k);
            }
            for (uint256 i = 0; i < k; ++i) {
                int256 distance = int256(k * k) * UNIT + total - 2 * at(sums, i);
                put(distances, i, distance < 1 ? int256(1) : distance);
            }
        }
    }

    /// @notice Approaches the leading eigenvector, entries up to 2^32, from a start that the seed decides.
    /// From an independent start in no particular direction, what is reached without attackers is in no
    /// particular direction either, converged or not. The matrix is nearly a multiple of the identity
    /// where honest updates are noise, and then a start along one row would stay there.
    function leading(int256[] memory packed, bytes32 seed, uint256 k)
        internal
        pure
        returns (int256[] memory vector)
    {
        unchecked {
            vector = _start(seed, k);
            int256[] memory product = new int256[](k + 2);
            for (uint256 step = 0; step < STEPS; ++step) {
                _scale(vector, product, _multiply(packed, vector, product), k);
            }
            assembly ("memory-safe") {
                mstore(vector, k)
            }
        }
    }

    /// @notice Approaches the trailing eigenvector that is orthogonal to 1, as `leading` does the leading
    /// one, by inverse iteration from two starts, and sums the squares; zeros where the matrix has a
    /// negative eigenvalue. Where copies make several such eigenvectors the starts find two mixtures of
    /// them: what one misses of a copy the other shows.
    function trailing(int256[] memory packed, bytes32 seed, uint256 k)
        internal
        pure
        returns (uint256[] memory squares)
    {
        unchecked {
            squares = new uint256[](k);
            int256[] memory rows = _raised(packed, k);
            if (!_factorise(rows, k)) return squares;
            for (uint256 start = 0; start < 2; ++start) {
                int256[] memory vector = _start(seed, k);
                int256 sum = 0;
                for (uint256 i = 0; i < k; ++i) {
                    sum += at(vector, i);
                }
                for (uint256 i = 0; i < k; ++i) {
                    put(vector, i, int256(k) * at(vector, i) - sum);
                }
                for (uint256 step = 0; step < SOLVES; ++step) {
                    _scale(vector, vector, _solve(rows, vector, k), k);
                }
                for (uint256 i = 0; i < k; ++i) {
                    squares[i] += uint256(at(vector, i) * at(vector, i));
                }
                seed = keccak256(abi.encode(seed));
            }
        }
    }

    /// @dev A start in any direction, of the length that `_multiply` needs, before three zeros for `_solve`.
    function _start(bytes32 seed, uint256 k) private pure returns (int256[] memory vector) {
        unchecked {
            vector = new int256[](_stride(k) + 3);
            uint256 bits = 0;
            for (uint256 j = 0; j < k; ++j) {
                if (j % 8 == 0) bits = uint256(keccak256(abi.encode(seed, j / 8)));
                // The sum of four uniform bytes, less its mean: nearly normal.
                uint256 sum = (bits >> 248) + ((bits >> 240) & 0xff) + ((bits >> 232) & 0xff)
                    + ((bits >> 224) & 0xff);
                put(vector, j, int256(sum) - 510);
                bits <<= 32;
            }
            uint256 length = _stride(k);
            assembly ("memory-safe") {
                mstore(vector, length)
            }
        }
    }

    /// @dev vector = product, its largest entry brought to 2^32.
    function _scale(int256[] memory vector, int256[] memory product, uint256 largest, uint256 k)
        private
        pure
    {
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
                for { let x := start } lt(x, end) { x := add(x, 128) } {
                    let other := add(x, away)
                    sum := add(sum, mul(mload(x), mload(other)))
                    sum := add(sum, mul(mload(add(x, 32)), mload(add(other, 32))))
                    sum := add(sum, mul(mload(add(x, 64)), mload(add(other, 64))))
                    sum := add(sum, mul(mload(add(x, 96)), mload(add(other, 96))))
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

    /// @dev Words of a packed row: k, rounded up to a multiple of 4, which `_multiply` needs.
    function _stride(uint256 k) private pure returns (uint256) {
        return (k + 3) & ~uint256(3);
    }

    /// @dev The centred matrix row by row, of which `_factorise` reads the upper triangle, with 1 made a
    /// leading eigenvector and all eigenvalues raised by 2^-16, so that what is below counts as equal.
    /// Three zeros after each row let loops take four words at a time; they stay zeros.
    function _raised(int256[] memory packed, uint256 k)
        private
        pure
        returns (int256[] memory rows)
    {
        unchecked {
            rows = new int256[](k * (k + 3));
            int256 top = int256(k * k) * UNIT;
            for (uint256 i = 0; i < k; i += 3) {
                uint256 entry = i / 3 * _stride(k);
                for (uint256 j = i; j < k; ++j) {
                    int256 lanes = at(packed, entry + j);
                    for (uint256 row = i; row < i + 3 && row < k; ++row) {
                        int256 value;
                        assembly ("memory-safe") {
                            value := sar(171, shl(171, lanes))
                            lanes := sar(85, sub(lanes, value))
                        }
                        put(rows, row * (k + 3) + j, value + top);
                    }
                }
            }
            for (uint256 i = 0; i < k; ++i) {
                put(rows, i * (k + 4), at(rows, i * (k + 4)) + int256(k * k << 8));
            }
        }
    }

    /// @dev Turns the upper triangle into D and Lᵀ, in 2^-32, with L D Lᵀ the matrix; false where an entry
    /// of D would not be positive.
    function _factorise(int256[] memory rows, uint256 k) private pure returns (bool positive) {
        unchecked {
            if (at(rows, 0) < 1) return false;
            for (uint256 j = 0; j < k; ++j) {
                uint256 row = j * (k + 3);
                int256 pivot = at(rows, row + j);
                for (uint256 i = j + 1; i < k; ++i) {
                    int256 left;
                    assembly ("memory-safe") {
                        let from := add(add(rows, 32), shl(5, add(row, i)))
                        let diagonal := add(add(rows, 32), shl(5, mul(i, add(k, 4))))
                        let away := sub(diagonal, from)
                        let factor := sdiv(shl(32, mload(from)), pivot)
                        for { let last := add(from, shl(5, sub(k, i))) } lt(from, last) {
                            from := add(from, 128)
                        } {
                            let to := add(from, away)
                            mstore(to, sub(mload(to), sar(32, mul(factor, mload(from)))))
                            to := add(to, 32)
                            mstore(to, sub(mload(to), sar(32, mul(factor, mload(add(from, 32))))))
                            to := add(to, 32)
                            mstore(to, sub(mload(to), sar(32, mul(factor, mload(add(from, 64))))))
                            to := add(to, 32)
                            mstore(to, sub(mload(to), sar(32, mul(factor, mload(add(from, 96))))))
                        }
                        left := mload(diagonal)
                    }
                    if (left < 1) return false;
                }
                for (uint256 i = j + 1; i < k; ++i) {
                    put(rows, row + i, (at(rows, row + i) << 32) / pivot);
                }
            }
            return true;
        }
    }

    /// @dev vector = 2^40 times the solution of L D Lᵀ x = vector, and its largest absolute entry.
    function _solve(int256[] memory rows, int256[] memory vector, uint256 k)
        private
        pure
        returns (uint256 largest)
    {
        assembly ("memory-safe") {
            let first := add(vector, 32)
            let end := add(first, shl(5, k))
            let diagonal := add(rows, 32)
            let step := shl(5, add(k, 4))
            for { let x := first } lt(x, end) { x := add(x, 32) } {
                let value := mload(x)
                let away := sub(diagonal, x)
                for { let y := add(x, 32) } lt(y, end) {} {
                    let factor := add(y, away)
                    mstore(y, sub(mload(y), sar(32, mul(mload(factor), value))))
                    y := add(y, 32)
                    mstore(y, sub(mload(y), sar(32, mul(mload(add(factor, 32)), value))))
                    y := add(y, 32)
                    mstore(y, sub(mload(y), sar(32, mul(mload(add(factor, 64)), value))))
                    y := add(y, 32)
                    mstore(y, sub(mload(y), sar(32, mul(mload(add(factor, 96)), value))))
                    y := add(y, 32)
                }
                mstore(x, sdiv(shl(40, value), mload(diagonal)))
                diagonal := add(diagonal, step)
            }
            for { let x := end } gt(x, first) {} {
                x := sub(x, 32)
                diagonal := sub(diagonal, step)
                let away := sub(diagonal, x)
                let sum := 0
                for { let y := add(x, 32) } lt(y, end) { y := add(y, 128) } {
                    let factor := add(y, away)
                    sum := add(sum, mul(mload(factor), mload(y)))
                    sum := add(sum, mul(mload(add(factor, 32)), mload(add(y, 32))))
                    sum := add(sum, mul(mload(add(factor, 64)), mload(add(y, 64))))
                    sum := add(sum, mul(mload(add(factor, 96)), mload(add(y, 96))))
                }
                let value := sub(mload(x), sar(32, sum))
                mstore(x, value)
                if slt(value, 0) { value := sub(0, value) }
                if gt(value, largest) { largest := value }
            }
        }
    }
}
