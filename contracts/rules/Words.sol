// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// Words of arrays in memory. Indices come from loops bounded by the lengths, so that bounds need no
// second check.

function at(int256[] memory values, uint256 i) pure returns (int256 value) {
    assembly ("memory-safe") {
        value := mload(add(add(values, 32), shl(5, i)))
    }
}

function put(int256[] memory values, uint256 i, int256 value) pure {
    assembly ("memory-safe") {
        mstore(add(add(values, 32), shl(5, i)), value)
    }
}

function at(uint256[] memory values, uint256 i) pure returns (uint256 value) {
    assembly ("memory-safe") {
        value := mload(add(add(values, 32), shl(5, i)))
    }
}

function put(uint256[] memory values, uint256 i, uint256 value) pure {
    assembly ("memory-safe") {
        mstore(add(add(values, 32), shl(5, i)), value)
    }
}

/// @dev Insertion sort's step: puts `value` among the first `count` entries, which are sorted.
function insert(int256[] memory sorted, uint256 count, int256 value) pure {
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
